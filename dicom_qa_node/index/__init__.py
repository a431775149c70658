"""The index behind C-FIND (`query`) and QIDO-RS (`web.dicomweb`): what the node holds, and how query keys match it.

`attributes` is the table of keys (PS3.4 C.6); `matching` decides (PS3.4 C.2.2.2); `find` reads the `catalogue` page by
page and builds answers; `header_cache` keeps the headers of reports in it.
"""
