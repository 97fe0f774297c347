from typing import Any

from .commands.api import bench as bench
from .commands.api import distill as distill
from .commands.api import export as export
from .commands.api import gate as gate
from .commands.api import plan as plan
from .commands.api import prune as prune
from .commands.api import quantize as quantize
from .commands.api import run as run
from .errors import EdgewrightError as EdgewrightError

__version__: str

def verb_function(name: str) -> Any: ...
