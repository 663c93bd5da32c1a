"""A clock that jumps: for the processes of a stack, not for its servers nor for the machine."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("jumping_clock.c")


class JumpingClock:
    """Shifts what the processes with its `environment` read as the time of day."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        library = directory / "jumping_clock.so"
        self.environment: dict[str, str] = {}
        self._offset = directory / "clock_offset"
        if compiler is None:
            return
        command = [compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET_FILE": str(self._offset)}

    @property
    def is_here(self) -> bool:
        """Whether there was a C compiler to make it."""
        return bool(self.environment)

    def jump(self, seconds: int) -> None:
        """Let the clock differ by these seconds from now on."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.replace(self._offset)
