import sys


def main():
    print("hello from python,", "venv" if sys.prefix == "/venv" else sys.prefix)
