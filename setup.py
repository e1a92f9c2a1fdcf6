"Packaging for skin_lesion: everything that varies stands in settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]


def requirements(key):
    "The packages listed under `key`; one is a word, so a version range is written without spaces."
    return cfg[key].split()


extras = {k.removesuffix("_requirements"): requirements(k) for k in cfg if k.endswith("_requirements")}

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="MIT",
    keywords=cfg["keywords"],
    packages=find_packages(include=["skin_lesion", "skin_lesion.*"]),
    package_data={cfg["lib_name"]: ["best/*"]},
    python_requires=f">={cfg['min_python']},<3.14",
    install_requires=requirements("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": requirements("console_scripts"),
        "nbdev": [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"],
    },
)
