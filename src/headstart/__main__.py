"""python -m headstart"""

from headstart.entry import main

main()
