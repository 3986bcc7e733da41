"""What users have, read and written: tables, arrays and images, from files, memory and the toy sets."""

from scorefield.data.checks import check_finite, remarks
from scorefield.data.kinds import Array, Data, Images, Table
from scorefield.data.limits import Limits
from scorefield.data.read import read
from scorefield.data.write import write

__all__ = ["Array", "Data", "Images", "Limits", "Table", "check_finite", "read", "remarks", "write"]
