"""The whole job on two CPU cores: serve pictures, download, pretrain, evaluate, export, report (`make demo`).

Orchestration only: data_prep and pipeline are run as the commands a user would type; of the project's code only
`albef` is imported, to look at what the exported model does. Nothing imports demo.

examples       the exported model on held-out pictures
page           the report: one HTML page that opens offline
page_pictures  the pictures and heat maps on the page
pictures       the pictures that ship with the demo
processes      the demo's children, and what a killed start left running
report         collects a run's results for the page
results        reads what the stages left
server         a small web on loopback, with broken URLs
settings       what a demo run is, and the record it resumes from
stages         the stages, in order; one that is done is not done again
url_lists      the lists that data_prep downloads
"""
