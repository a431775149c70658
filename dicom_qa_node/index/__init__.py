"""What the node holds, and how keys match it: behind C-FIND (`query`) and QIDO-RS (`web.dicomweb`) alike.

`attributes` is the table of keys; `keys` what was asked; `matching` decides (PS3.4 C.2.2.2); `find` reads the catalogue
page by page; `index` keeps the headers of reports in it.
"""
