"""Build hook: the C kernel (csrc/build.py says how it is compiled). All metadata stands in pyproject.toml."""

from setuptools import setup

setup(
    cffi_modules=["csrc/build.py:ffibuilder"],
    # One wheel for this Python and all later ones: cffi compiles for the stable ABI. Not in pyproject.toml because
    # setuptools still calls its place there experimental.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
