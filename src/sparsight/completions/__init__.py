"""What is left in the place of what is skipped: nothing, the last value, or a linear map of the token.

A method's `completion` names one of these.  "last" and "none" need no code of their own: a token that
nothing is added to has its last value, and a query that nothing is added to has what it saw.
"""
