"""The Query/Retrieve SCP (PS3.4 annex C): what the node holds, for those who ask.

`service` is what the receiver's application entity is given; `identifiers` reads a request and checks the rules of the
hierarchy; `matching` decides; `find` answers C-FIND; `retrieve` sends what C-MOVE and C-GET ask for; `index` keeps the
headers of reports in the catalogue.
"""
