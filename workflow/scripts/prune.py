"""Delete the versions that no experiment under results/latest points to.

usage   python workflow/scripts/prune.py
"""

from dreamtune.publish import prune

if __name__ == "__main__":
    for folder in prune():
        print(f"deleted {folder}")
