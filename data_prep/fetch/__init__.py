"""Asking servers for images: img2dataset with our opener, its limits, and the process that runs it.

address_guard      which IP addresses may be asked: nothing private, also after a redirect
content_encoding   bodies in gzip and deflate
dns_check          checks before the start that the list's hosts resolve
failure            why an image could not be fetched
host_limits        requests at a time to a host, and pauses after its 429 or Retry-After
http_response      the head of a response: early hints, many headers, the deadline
img2dataset_parts  img2dataset's parts, put together to fetch bytes shard by shard
img2dataset_run    the process that runs it
lean_worker        what every img2dataset process does before it imports img2dataset
redirects          from a listed URL to the response: redirects, cookies, passwords
retrying_opener    asks for one image: limits, retries, opt-outs
spark              img2dataset over Spark: its requirements, and the session
supervisor         starts and watches img2dataset
"""
