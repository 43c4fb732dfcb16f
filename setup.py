"""What pyproject.toml cannot say: the configs in the wheel, and a description that PyPI can show."""

import re
from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.egg_info import egg_info


class BuildWithConfigs(build_py):
    """The usual step, and the folder `configs/` as `cxml/configs/`, where `--config NAME` looks."""

    def run(self) -> None:
        """Copy them unless the installation is editable, which finds them at the root."""
        super().run()
        if not self.editable_mode:
            copytree("configs", Path(self.build_lib, "cxml", "configs"), dirs_exist_ok=True)


class DescribeForPyPI(egg_info):
    """The usual step, with links and pictures of README.md by whole addresses: PyPI has none of the other files."""

    def run(self) -> None:
        """Lead them to `Source` of [project.urls]; without one, leave the pictures out."""
        metadata = self.distribution.metadata
        source, readme = (metadata.project_urls or {}).get("Source"), metadata.long_description
        if source:
            readme = re.sub(r"(!\[[^\]]*\]\()(?!\w+:|#)", rf"\1{source}/raw/HEAD/", readme)
            readme = re.sub(r"((?<!!)\[[^\]]*\]\()(?!\w+:|#)", rf"\1{source}/blob/HEAD/", readme)
        else:
            readme = re.sub(r"^!\[.*\n\n", "", readme, flags=re.MULTILINE)
        metadata.long_description = readme
        super().run()


setup(cmdclass={"build_py": BuildWithConfigs, "egg_info": DescribeForPyPI})
