//! Proves that the hot statements cost what the design says: one seek, whatever else is stored.

use rusqlite::{Connection, Params, StatementStatus};

use crate::events::BACKWARDS;
use crate::moving::Parents;
use crate::read::{
    PATHS_BELOW_OF, PATHS_IN_OF, PATHS_OF, SCAN_BELOW, SCAN_DIR, SCAN_DIR_AFTER, SCAN_DIR_OF,
    SCAN_DIR_OF_AFTER, SEEK, SEEK_IN,
};
use crate::schema::initialise;

fn store() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    initialise(&mut conn).unwrap();
    conn
}

/// Adds a tombstone at `/d/NAME` in each of a range of branches.
fn fill(conn: &Connection, name: &str, branches: std::ops::RangeInclusive<u32>) {
    let sql = "INSERT INTO entries (bucket, parent, name, branch, epoch, kind) \
               VALUES (1, '/d', ?1, ?2, 1, 0)";
    let mut stmt = conn.prepare(sql).unwrap();
    for branch in branches {
        stmt.execute((name, branch)).unwrap();
    }
}

/// Runs a statement to its first row; returns whether there was one, and the steps it took.
fn steps(conn: &Connection, sql: &str, params: impl Params) -> (bool, i32) {
    let mut stmt = conn.prepare(sql).unwrap();
    let found = stmt.exists(params).unwrap();
    (found, stmt.get_status(StatementStatus::VmStep))
}

#[test]
fn a_seek_takes_the_same_steps_beside_1000_siblings_as_alone() {
    let conn = store();
    fill(&conn, "alone", 1..=1);
    fill(&conn, "shared", 1..=1000);
    let alone = steps(&conn, SEEK, (1, "/d", "alone", 1, 1));
    assert!(alone.0 && alone.1 < 60, "{alone:?}");
    for branch in [1, 2, 500, 1000] {
        // The oldest branch lies behind all others in the order of the key, the newest before them.
        let found = steps(&conn, SEEK, (1, "/d", "shared", branch, 1));
        assert_eq!(found, alone, "branch {branch}");
        let older_epoch = steps(&conn, SEEK, (1, "/d", "shared", branch, 0));
        assert_eq!(older_epoch.0, branch > 1);
        assert!(older_epoch.1 <= alone.1, "branch {branch}: {older_epoch:?}");
    }
}

#[test]
fn hot_statements_use_an_index_for_where_and_order() {
    let conn = store();
    for (sql, want) in [
        (
            SEEK,
            "PRIMARY KEY (bucket=? AND parent=? AND name=? AND (branch,epoch)<(?,?))",
        ),
        (SCAN_DIR, "PRIMARY KEY (bucket=? AND parent=?)"),
        (
            SCAN_DIR_AFTER,
            "PRIMARY KEY (bucket=? AND parent=? AND name>?)",
        ),
        (
            SCAN_BELOW,
            "PRIMARY KEY (bucket=? AND parent>? AND parent<?)",
        ),
        (
            SCAN_DIR_OF,
            "COVERING INDEX entries_by_branch (branch=? AND parent=?)",
        ),
        (
            SCAN_DIR_OF_AFTER,
            "COVERING INDEX entries_by_branch (branch=? AND parent=? AND name>?)",
        ),
        (
            SEEK_IN,
            "COVERING INDEX entries_by_branch (branch=? AND parent=? AND name=? AND epoch>? AND epoch<?)",
        ),
        (PATHS_OF, "COVERING INDEX entries_by_branch (branch=?)"),
        (
            PATHS_IN_OF,
            "COVERING INDEX entries_by_branch (branch=? AND parent=?)",
        ),
        (
            PATHS_BELOW_OF,
            "COVERING INDEX entries_by_branch (branch=? AND parent>? AND parent<?)",
        ),
        // What other buckets have in the log is passed over.
        (
            BACKWARDS,
            "INDEX _honker_stream_topic (topic=? AND offset<?)",
        ),
    ] {
        assert_plan(&conn, sql, want);
    }
    for parents in [Parents::Only("/a"), Parents::Between("/a/", "/a0")] {
        let [copy, remove] = parents.statements();
        let want = "INDEX entries_by_branch (branch=? AND parent>? AND parent<?)";
        assert_plan(&conn, &copy, &format!("COVERING {want}"));
        assert_plan(&conn, &remove, want);
    }
}

fn assert_plan(conn: &Connection, sql: &str, want: &str) {
    let mut stmt = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let ones = vec![1; stmt.parameter_count()];
    let plan: Vec<String> = stmt
        .query_map(rusqlite::params_from_iter(ones), |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(plan.len(), 1, "{sql}: {plan:?}");
    assert!(plan[0].ends_with(want), "{sql}: {plan:?}");
}
