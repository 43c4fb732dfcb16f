"""The server is told to end at a bad time."""

from support.served import is_listening, served


def test_told_to_end_while_the_model_loads_it_ends_with_code_0_and_leaves_nothing(output, tmp_path):
    with served(output, tmp_path / "log.txt", until=is_listening):
        pass
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
