"""Several processes of one machine, a device each, as `accelerate launch` starts them.

Each process does every n-th part.  The first one holds the sink's lock, lists, and sums up.
"""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """This process among those that do the work together."""

    index: int = 0
    count: int = 1
    device: str | None = None
    state: Any = None  # accelerate's

    @property
    def leads(self) -> bool:
        """Whether it is the first."""
        return self.index == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def of(self, parts: list[int]) -> list[int]:
        """The parts that are this process's."""
        return parts[self.index :: self.count]


def this_process() -> Share:
    """Alone, unless a launcher has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share()
    from accelerate import PartialState

    state = PartialState()
    return Share(state.process_index, state.num_processes, str(state.device), state)
