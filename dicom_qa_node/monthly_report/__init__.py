"""The monthly report of a scanner or the site: figures from the database, and the report as PDF and as workbook."""
