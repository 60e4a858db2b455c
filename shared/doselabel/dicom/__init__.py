"""DICOM in and out: from a hospital's objects to a study, and from results back to objects.

Read in this order: `sort` (files → instances), `series` (what each series is), `frames` and `volume` (where its planes
lie, its voxels), `timing`, `scale`, `injection` (when, in which unit, how much), `answers` and `plan` (what becomes
which part of a study, and what must be asked), `pseudonym`, `studies` (the study is written); `drawn` and
`labels` (organs drawn on its CTs become label versions). `export`, `write_seg` and
`write_rt` go the other way.

The room needs the extra ``dicom`` (`doselabel.dicom.need`); nothing outside it imports pydicom.
"""

KINDS = ("seg", "rtstruct", "rtdose", "pdf", "sr")
"""What results are exported as."""
