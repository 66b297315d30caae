"""Say what pyproject.toml cannot: which packages there are, one of them inside twisted/.

`package_dir` must be given although "." is the default: only then does an editable install
put the checkout itself on sys.path, where Twisted looks for plugins. And there must be no
`__init__.py` in twisted/ or twisted/plugins/: it would replace Twisted's own.
"""

from setuptools import find_packages, setup

setup(
    package_dir={"": "."},
    packages=[*find_packages(include=["raft", "raft.*"]), "twisted.plugins"],
)
