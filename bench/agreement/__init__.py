"""How often an export with the 8-bit decoder writes what the fp32 export writes: `scripts/agreement`."""
