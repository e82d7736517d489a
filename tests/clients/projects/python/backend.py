"""Makes the wheel with nothing but the standard library, so that nothing has to be fetched (PEP 517)."""

import zipfile
from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
SCRIPTS = "[console_scripts]\ngreet = app:main\n"


def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "greet-1.0-py3-none-any.whl"
    files = {str(path): path.read_text() for path in Path("app").glob("*.py")}
    files |= {
        f"greet-1.0.dist-info/{file}": text
        for file, text in (("METADATA", METADATA), ("WHEEL", WHEEL), ("entry_points.txt", SCRIPTS))
    }
    record = "".join(f"{file},,\n" for file in (*files, "greet-1.0.dist-info/RECORD"))
    with zipfile.ZipFile(Path(directory, name), "w") as wheel:
        for file, text in {**files, "greet-1.0.dist-info/RECORD": record}.items():
            wheel.writestr(file, text)
    return name
