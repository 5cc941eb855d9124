//! Bringing a database file to the present schema. `PRAGMA user_version` counts the migrations that were applied.

use super::DatabaseError;
use rusqlite::Connection;
use std::path::Path;

/// In order; a released one is never edited.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("schema/001.sql"),
    include_str!("schema/002.sql"),
    include_str!("schema/003.sql"),
    include_str!("schema/004.sql"),
    include_str!("schema/005.sql"),
];

/// "Trir": what `file` and we ourselves know our databases by.
pub(super) const APPLICATION_ID: i64 = 0x5472_6972;

/// Applies what is missing, each migration in a transaction of its own.
pub(super) fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), DatabaseError> {
    let open = |source| DatabaseError::Open { path: path.to_path_buf(), source };
    let known = i64::try_from(migrations.len()).expect("few migrations");
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(open)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(open)?;
    if application != APPLICATION_ID && tables > 0 {
        return Err(DatabaseError::Foreign { path: path.to_path_buf() });
    }
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
    if version > known {
        return Err(DatabaseError::Newer { path: path.to_path_buf(), found: version, known });
    }
    for (migration, to) in migrations.iter().zip(1..).skip(usize::try_from(version).expect("never negative")) {
        let mut step = || {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
            transaction.pragma_update(None, "user_version", to)?;
            transaction.commit()
        };
        step().map_err(|source| match DatabaseError::from_sqlite(path, source) {
            DatabaseError::Sqlite { path, source } => DatabaseError::Migration { path, from: to - 1, to, source },
            other => other,
        })?;
        tracing::debug!(path = %path.display(), version = to, "run database migrated");
    }
    Ok(())
}
