"""Installs the package that nbdev exports; every fact comes from settings.ini."""
from configparser import ConfigParser
from setuptools import find_packages, setup

settings = ConfigParser(delimiters=["="])
settings.read("settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    license="Apache-2.0",
    python_requires=">=" + settings["min_python"],
    packages=find_packages(include=["msa_paper", "msa_paper.*"]),
    install_requires=settings["requirements"].split(),
    extras_require={extra: settings[f"{extra}_requirements"].split() for extra in ("dev", "text", "cluster", "media")},
    package_data={"msa_paper": ["weights/*", "weights/*/*", "weights/*/*/*"]},   # of trained models: see its README
    entry_points={"console_scripts": settings["console_scripts"].split()},
)
