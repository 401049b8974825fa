"""Run by a Python that has bcdnet's wheel and no torch: `python .ci/predict.py FILE.bcdn`.

Predicts one image, and compares the native core on every instruction set with the plain numpy executor.
"""

import sys
from importlib.util import find_spec

import numpy as np

from bcdnet.program import execute, read_program
from bcdnet.runtime import InferenceSession, available_targets

assert find_spec("torch") is None, "this Python has torch: it proves nothing"
assert available_targets()[0] != "SCALAR", "the core was built without vector instructions"
path = sys.argv[1]
port = InferenceSession(path).get_inputs()[0]
images = np.random.default_rng(0).normal(size=(2, *port.shape[1:])).astype(np.float32)
expected = execute(read_program(path), images)
for target in available_targets():
    outputs = InferenceSession(path, target=target).run(None, {port.name: images})
    assert all(map(np.array_equal, outputs, expected)), f"{target} differs from the numpy executor"

session = InferenceSession(path)
if session.preprocess is not None:
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    ((best, *_),) = session.predict([photo])
    print(f"predicted class {best.label} ({best.probability:.1%})")
print(f"{path} runs without torch on {', '.join(available_targets())}")
