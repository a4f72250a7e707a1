-- In SQLite the log of conversations is in files of the server.
SELECT 1;
