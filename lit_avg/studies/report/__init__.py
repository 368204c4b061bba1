"""What came out: results, intervals, tables in five formats, figures, the page, and in what two runs differ."""
