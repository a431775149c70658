"""The Query/Retrieve SCP (PS3.4 annex C): what the node holds, for those who ask.

`service` is what the receiver's application entity is given; `identifiers` reads a request and checks the rules of the
hierarchy; `find` answers C-FIND from what `search` finds; `retrieve` sends what C-MOVE and C-GET ask for.
"""
