"""Training of the learned scheduler (PMPD, Section 4.3 and Appendix A.1): text, labels, features, network, comparison.

The order of work: prompts of another kind than those that will be reported (:mod:`.training_texts`); responses under
every candidate schedule, scored against full precision, with the prompt's features (:mod:`.labels`); the network's
training (:mod:`.train`, :mod:`.tune`); what it is worth against choosing at random (:mod:`.comparison`); its cost
(:mod:`.cost`).
"""
