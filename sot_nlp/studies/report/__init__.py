"""Report studies: tables, plots and pages made from records."""
