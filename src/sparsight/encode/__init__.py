"""Bulk encoding: from a source of pictures to a table of features, each picture exactly once.

    source -> listing -> parts -> Encoder -> sink         one file for each meaning
                            ledger says which parts are there

The listing of the source is kept in the sink and cut into parts of consecutive pictures.  A part is
encoded as a whole: its pictures are put into buckets by the size of their grid of tokens, the buckets
into batches, the rows back into the order of the source.  So what a part holds depends on nothing but
its pictures and the encoder, whoever encodes it and after however many interruptions; it is renamed
into place whole and then marked.  Drivers differ only in who does which part.
"""

from sparsight.encode.job import encode
from sparsight.encode.prepare import How
from sparsight.encode.settings import EncoderSettings

__all__ = ["EncoderSettings", "How", "encode"]
