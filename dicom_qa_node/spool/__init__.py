"""Files of the node; no database, no network.

`layout` names them; `incoming` makes received objects durable; `disk_space` measures and frees space;
`filesystem_check` tests what durable files rest on; `rendered_images` and `result_archive` describe the files of a
scored revision.
"""
