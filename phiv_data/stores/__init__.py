"""Object stores behind one small protocol: `s3://`, `gs://`, `hf://` and `file://`.

    store = open_store(Address.parse("s3://bucket/sets/ucf101"))
    for entry in store.list(): ...                    # (name, size_bytes, mtime_ns), one listing of all below
    store.put("manifest.json", b"...")                # whole objects only; a reader sees all of it or nothing

Its modules, each building on those above it:

    address.py     what is an address, in text and in paths
    base.py        the protocol
    threads.py     many requests at a time
    retry.py       which failures are tried again, and what is said of the others
    arrow.py       S3, GCS and local files, through pyarrow
    hub.py         the Hugging Face hub, for reading, through huggingface_hub
    opening.py     which of them an address belongs to
    cache.py       a bounded folder of whole files, shared by processes
    dataset_copy.py, folder_copy.py    what is in that folder: converted datasets, file by file; folders as a whole
"""
