"""Published figures on the official test splits of public data sets, in percent, by the name of our config."""

PUBLISHED = {
    "eurlex57k": {
        # Chalkidis et al., ACL 2019 and EMNLP 2020; LibMultiLabel's example configurations.
        "Kim-CNN (LibMultiLabel)": {"P@1": 90.78, "P@5": 66.87, "RP@5": 77.53, "nDCG@5": 80.35, "micro-F1": 69.9},
        "BiGRU-LWAN (LibMultiLabel)": {"P@1": 90.73, "P@5": 67.08, "RP@5": 77.75, "nDCG@5": 80.60, "micro-F1": 71.3},
        "BERT-LWAN (LibMultiLabel)": {"P@1": 89.98, "P@5": 67.85, "RP@5": 78.47, "nDCG@5": 80.98, "micro-F1": 72.8},
        "BERT-base (Chalkidis et al. 2019)": {"P@5": 68.7, "RP@5": 79.6, "nDCG@5": 82.3, "micro-F1": 73.2},
        "BERT-LWAN (Chalkidis et al. 2020)": {"RP@5": 80.3, "nDCG@5": 82.9},
    },
}
