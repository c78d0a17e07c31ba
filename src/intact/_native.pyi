import numpy as np
from numpy.typing import NDArray

def describe(values: NDArray[np.float32]) -> tuple[float, float, int, int, NDArray[np.int64]]: ...
