"""The types of keys and rows, apart from the index, whose kernel loads torch."""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
