-- The accounts that alerts.yaml and sql_exporter.yaml need.  Install MySQL's functions of
-- keyring_udf first.  Replace PASSWORD, and let nobody else read this file (mode 600).
-- probe may run functions, and nobody can log in as probe.  monitor is the exporters'.
CREATE DATABASE monitor;
CREATE USER probe@localhost IDENTIFIED BY RANDOM PASSWORD ACCOUNT LOCK;
GRANT EXECUTE ON *.* TO probe@localhost;
-- keyring_udf says that the keyring failed by NULL, and before 9.0 by an error.
DELIMITER //
CREATE DEFINER = probe@localhost FUNCTION monitor.keyring_probe() RETURNS INT NO SQL
BEGIN
    DECLARE EXIT HANDLER FOR SQLEXCEPTION RETURN 0;
    RETURN keyring_key_length_fetch('probe') IS NOT NULL;
END //
DELIMITER ;
CREATE DEFINER = probe@localhost PROCEDURE monitor.make_probe() NO SQL
    DO keyring_key_generate('probe', 'AES', 16);
CREATE USER monitor@localhost IDENTIFIED BY 'PASSWORD' WITH MAX_USER_CONNECTIONS 4;
GRANT SELECT ON performance_schema.keyring_component_status TO monitor@localhost;
GRANT SELECT ON performance_schema.error_log TO monitor@localhost;
GRANT EXECUTE ON FUNCTION monitor.keyring_probe TO monitor@localhost;
-- The key that the probe fetches.  Each server has its own: call this on each replica, too.
CALL monitor.make_probe();
