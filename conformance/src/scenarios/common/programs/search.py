# Looks for texts in everything of a room that its user can read and that is not the image's own: processes' environments and
# command lines, and files. The texts are given backwards, so that this does not find itself. Prints a line for each place.
import os
import stat
import sys

words = [word[::-1].encode() for word in sys.argv[1:]]
MOST = 64 * 1024 * 1024


def look(path):
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb") as file:
                data = file.read(MOST)
            for number, word in enumerate(words):
                if word in data:
                    print(f"{number} {path}")
    except OSError:
        pass


for process in filter(str.isdigit, os.listdir("/proc")):
    look(f"/proc/{process}/environ")
    look(f"/proc/{process}/cmdline")
for top in ("/workspace", "/home", "/tmp", "/run", "@SOCKETS@", "/dev/shm", "/etc", "/var/log", "/var/tmp"):
    for directory, _, names in os.walk(top):
        for name in names:
            look(os.path.join(directory, name))
print("searched")
