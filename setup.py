"""The packages, since pyproject.toml, which has all else, cannot both find some and name the folder of another."""

from setuptools import find_packages, setup

# In a wheel, the folder cluster/ is labkit/cluster/.
setup(packages=[*find_packages(include=["labkit*"]), "labkit.cluster"], package_dir={"labkit.cluster": "cluster"})
