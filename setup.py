"""Puts the folder `configs/` into the wheel as `cxml/configs/`, where `--config NAME` looks. See pyproject.toml."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """The usual step, and the configs."""

    def run(self) -> None:
        """Copy them unless the installation is editable, which finds them at the root."""
        super().run()
        if not self.editable_mode:
            copytree("configs", Path(self.build_lib, "cxml", "configs"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
