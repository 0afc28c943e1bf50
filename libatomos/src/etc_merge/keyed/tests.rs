//! The merge of account files, on their bytes.

use proptest::prelude::*;

use super::*;

type Files<'a> = &'a [(AccountFile, &'a str, &'a str, &'a str)];

fn merge(files: Files<'_>) -> BTreeMap<AccountFile, KeyedFile> {
    let versions = files
        .iter()
        .map(|(file, base, mine, theirs)| {
            let bytes = |text: &str| text.as_bytes().to_vec();
            let versions = Versions {
                base: bytes(base),
                mine: bytes(mine),
                theirs: bytes(theirs),
            };
            (*file, versions)
        })
        .collect();
    merge_versions(&versions)
}

fn text(merged: &BTreeMap<AccountFile, KeyedFile>, file: AccountFile) -> String {
    String::from_utf8(merged[&file].bytes.clone()).unwrap()
}

use AccountFile::{Group, Gshadow, Passwd, Shadow, Subuid};

#[test]
fn what_both_sides_added_is_there_in_my_order_with_theirs_at_the_end() {
    let merged = merge(&[
        (
            Passwd,
            "root:x:0:0:::\ndaemon:x:1:1:::\n",
            "root:x:0:0:::\nalice:x:1000:1000:::\ndaemon:x:1:1:::\n",
            "root:x:0:0:::\ndaemon:x:1:1:::\nsvc:x:101:101:::\n",
        ),
        (
            Shadow,
            "root:*:1::::::\ndaemon:*:1::::::\n",
            "root:HASH:2::::::\nalice:A:2::::::\ndaemon:*:1::::::\n",
            "root:*:1::::::\ndaemon:*:1::::::\nsvc:!:3::::::\n",
        ),
        (
            Group,
            "root:x:0:\nadm:x:4:syslog\n",
            "root:x:0:\nadm:x:4:syslog,alice\nalice:x:1000:\n",
            "root:x:0:\nadm:x:4:\nsvc:x:101:\n",
        ),
    ]);
    assert_eq!(
        text(&merged, Passwd),
        "root:x:0:0:::\nalice:x:1000:1000:::\ndaemon:x:1:1:::\nsvc:x:101:101:::\n"
    );
    assert_eq!(
        text(&merged, Shadow),
        "root:HASH:2::::::\nalice:A:2::::::\ndaemon:*:1::::::\nsvc:!:3::::::\n"
    );
    assert_eq!(
        text(&merged, Group),
        "root:x:0:\nadm:x:4:alice\nalice:x:1000:\nsvc:x:101:\n"
    );
    assert!(merged.values().all(|file| file.conflicts.is_empty()));
}

#[test]
fn two_accounts_never_come_to_have_one_id() {
    let merged = merge(&[
        (
            Passwd,
            "r:x:0:0:::\n",
            "r:x:0:0:::\nalice:x:990:990:::\n",
            "r:x:0:0:::\nsvc:x:990:101:::\n",
        ),
        (
            Shadow,
            "r:*:::::::\n",
            "r:*:::::::\nalice:A:::::::\n",
            "r:*:::::::\nsvc:!:::::::\n",
        ),
        (
            Group,
            "r:x:0:\n",
            "r:x:0:\nalice:x:990:\n",
            "r:x:0:\nsvc:x:101:\n",
        ),
    ]);
    assert_eq!(text(&merged, Passwd), "r:x:0:0:::\nalice:x:990:990:::\n");
    assert_eq!(
        text(&merged, Shadow),
        "r:*:::::::\nalice:A:::::::\n",
        "its shadow line goes with it"
    );
    assert_eq!(
        merged[&Passwd].conflicts,
        [KeyedConflict::SameId {
            id: 990,
            mine: "alice".to_owned(),
            theirs: "svc".to_owned()
        }]
    );
}

#[test]
fn an_id_that_theirs_moves_onto_one_of_mine_stays_where_it_was() {
    let merged = merge(&[(
        Passwd,
        "svc:x:101:0:::\n",
        "svc:x:101:0:::\nalice:x:990:0:::\n",
        "svc:x:990:0:::\nnew:x:101:0:::\n",
    )]);
    // svc keeps 101, so theirs' new account with 101 has no place either.
    assert_eq!(text(&merged, Passwd), "svc:x:101:0:::\nalice:x:990:0:::\n");
    assert_eq!(merged[&Passwd].conflicts.len(), 2);
}

#[test]
fn ids_that_upstream_shares_on_purpose_are_kept_and_reported() {
    let merged = merge(&[(
        Passwd,
        "root:x:0:0:::\n",
        "root:x:0:0:::\nalice:x:1000:0:::\n",
        "root:x:0:0:::\ntoor:x:0:0:::\n",
    )]);
    assert_eq!(
        text(&merged, Passwd),
        "root:x:0:0:::\nalice:x:1000:0:::\ntoor:x:0:0:::\n"
    );
    assert!(matches!(
        &merged[&Passwd].conflicts[..],
        [KeyedConflict::SharedId { id: 0, .. }]
    ));
}

#[test]
fn ids_that_are_shared_here_are_a_person_s_own_business() {
    let merged = merge(&[(
        Passwd,
        "root:x:0:0:::\n",
        "root:x:0:0:::\nme:x:0:0:::\n",
        "root:x:0:0:::\nsvc:x:101:0:::\n",
    )]);
    assert_eq!(
        text(&merged, Passwd),
        "root:x:0:0:::\nme:x:0:0:::\nsvc:x:101:0:::\n"
    );
    assert!(merged[&Passwd].conflicts.is_empty());
}

#[test]
fn an_account_whose_primary_group_would_be_another_s_is_withheld() {
    let merged = merge(&[
        (
            Passwd,
            "r:x:0:0:::\n",
            "r:x:0:0:::\na:x:1:990:::\n",
            "r:x:0:0:::\nsvc:x:991:990:::\n",
        ),
        (Shadow, "", "a:A:::::::\n", "svc:!:::::::\n"),
        (
            Group,
            "r:x:0:\n",
            "r:x:0:\nalice:x:990:\n",
            "r:x:0:\nsvc:x:990:\n",
        ),
        (Gshadow, "r:*::\n", "r:*::\nalice:!::\n", "r:*::\nsvc:!::\n"),
    ]);
    assert_eq!(text(&merged, Passwd), "r:x:0:0:::\na:x:1:990:::\n");
    assert_eq!(text(&merged, Shadow), "a:A:::::::\n");
    assert_eq!(text(&merged, Group), "r:x:0:\nalice:x:990:\n");
    assert_eq!(text(&merged, Gshadow), "r:*::\nalice:!::\n");
    assert!(matches!(
        &merged[&Passwd].conflicts[..],
        [KeyedConflict::PrimaryGroup { gid: 990, .. }]
    ));
}

#[test]
fn a_service_does_not_come_into_a_group_that_was_made_here() {
    let merged = merge(&[
        (
            Passwd,
            "svc:x:101:101:::\n",
            "svc:x:101:101:::/changed\n",
            "svc:x:102:102:::\n",
        ),
        (
            Group,
            "svc:x:101:\n",
            "svc:x:101:\nsecret:x:102:\n",
            "svc:x:102:\n",
        ),
    ]);
    assert_eq!(text(&merged, Passwd), "svc:x:101:101:::/changed\n");
    assert_eq!(text(&merged, Group), "svc:x:101:\nsecret:x:102:\n");
    assert!(matches!(
        &merged[&Passwd].conflicts[..],
        [KeyedConflict::PrimaryGroup { gid: 102, .. }]
    ));
}

#[test]
fn a_person_s_primary_group_keeps_its_id() {
    let merged = merge(&[
        (
            Passwd,
            "r:x:0:0:::\n",
            "r:x:0:0:::\nalice:x:1000:100:::\n",
            "r:x:0:0:::\n",
        ),
        (
            Group,
            "users:x:100:\n",
            "users:x:100:alice\n",
            "users:x:200:\nnew:x:100:\n",
        ),
    ]);
    assert_eq!(text(&merged, Group), "users:x:100:alice\n");
    assert!(matches!(
        &merged[&Group].conflicts[..],
        [
            KeyedConflict::SameId { id: 100, .. },
            KeyedConflict::PrimaryGroup { gid: 100, .. }
        ]
    ));
}

#[test]
fn an_account_whose_password_was_set_here_survives_its_removal_whole() {
    let merged = merge(&[
        (
            Passwd,
            "games:x:5:60:::\n",
            "games:x:5:60:::\n",
            "new:x:5:60:::\n",
        ),
        (
            Shadow,
            "games:*:1::::::\n",
            "games:HASH:2::::::\n",
            "new:*:1::::::\n",
        ),
    ]);
    assert_eq!(text(&merged, Passwd), "games:x:5:60:::\n");
    assert_eq!(text(&merged, Shadow), "games:HASH:2::::::\n");
    assert!(
        merged[&Passwd]
            .conflicts
            .iter()
            .any(|conflict| matches!(conflict, KeyedConflict::DeletedThere { key } if key == "games"))
    );
    assert!(
        merged[&Passwd]
            .conflicts
            .iter()
            .any(|conflict| matches!(conflict, KeyedConflict::SameId { id: 5, .. }))
    );
}

#[test]
fn the_group_of_an_account_made_here_survives_its_removal() {
    let merged = merge(&[
        (
            Passwd,
            "r:x:0:0:::\n",
            "r:x:0:0:::\na:x:1000:100:::\n",
            "r:x:0:0:::\n",
        ),
        (
            Group,
            "r:x:0:\nusers:x:100:\n",
            "r:x:0:\nusers:x:100:\n",
            "r:x:0:\n",
        ),
    ]);
    assert_eq!(text(&merged, Group), "r:x:0:\nusers:x:100:\n");
}

#[test]
fn an_account_deleted_here_stays_deleted_in_both_files() {
    let merged = merge(&[
        (
            Passwd,
            "r:x:0:0:::\ng:x:5:5:::\n",
            "r:x:0:0:::\n",
            "r:x:0:0:::\ng:x:5:5:New::\n",
        ),
        (
            Shadow,
            "r:*:::::::\ng:*:::::::\n",
            "r:*:::::::\n",
            "r:*:::::::\ng:*:9::::::\n",
        ),
    ]);
    assert_eq!(text(&merged, Passwd), "r:x:0:0:::\n");
    assert_eq!(text(&merged, Shadow), "r:*:::::::\n");
    assert_eq!(
        merged[&Passwd].conflicts,
        [KeyedConflict::DeletedHere { key: "g".to_owned() }]
    );
}

#[test]
fn garbled_lines_of_a_person_s_are_kept_to_the_byte_and_nis_stays_last() {
    let merged = merge(&[(
        Passwd,
        "root:x:0:0:::\n",
        "# mine\nroot:x:0:0:::\nhalf:x\n\nroot:x:5:5:dup::\n+@admins::::::\n",
        "root:x:0:0:::\nsvc:x:101:101:::\n",
    )]);
    assert_eq!(
        text(&merged, Passwd),
        "# mine\nroot:x:0:0:::\nhalf:x\n\nroot:x:5:5:dup::\nsvc:x:101:101:::\n+@admins::::::\n"
    );
}

#[test]
fn ranges_merge_as_lines_and_overlapping_ones_of_theirs_are_withheld() {
    let merged = merge(&[(
        Subuid,
        "a:100000:65536\n",
        "a:100000:65536\nme:165536:65536\n",
        "svc:200000:65536\nother:300000:65536\n",
    )]);
    assert_eq!(text(&merged, Subuid), "me:165536:65536\nother:300000:65536\n");
    assert!(matches!(
        &merged[&Subuid].conflicts[..],
        [KeyedConflict::Range { .. }]
    ));
}

#[test]
fn a_conflict_names_fields_and_never_values() {
    let merged = merge(&[(
        Shadow,
        "r:*:1::::::\nx:*:1::::::\n",
        "r:SECRET:2::::::\nx:*:1::::::\n",
        "r:OTHER:3::::::\n",
    )]);
    assert_eq!(text(&merged, Shadow), "r:SECRET:2::::::\n");
    let json = serde_json::to_string(&merged[&Shadow].conflicts).unwrap();
    assert_eq!(json, r#"[{"conflict":"fields","key":"r","fields":["password"]}]"#);
}

/// A file of few keys and ids, so that they meet, with lines that are none.
fn any_passwd() -> impl Strategy<Value = String> {
    let record = ("[a-d]", 0u32..4, 0u32..3, "[xy]?")
        .prop_map(|(name, uid, gid, gecos)| format!("{name}:x:{uid}:{gid}:{gecos}::"));
    let line = prop_oneof![8 => record, 1 => Just("# c".to_owned()), 1 => "[a-c:+]{0,6}"];
    (prop::collection::vec(line, 0..6), any::<bool>()).prop_map(|(lines, end)| {
        let text = lines.join("\n");
        if end && !text.is_empty() {
            text + "\n"
        } else {
            text
        }
    })
}

fn ids(bytes: &[u8]) -> Vec<(String, u32)> {
    records(Passwd, bytes)
        .iter()
        .map(|(key, line)| (escape(key), table::number_at(line, 2).unwrap()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_accounts(base in any_passwd(), mine in any_passwd(), theirs in any_passwd()) {
        let run = |base: &str, mine: &str, theirs: &str| -> Vec<u8> {
            match merge(&[(Passwd, base, mine, theirs)]).remove(&Passwd) {
                Some(file) => file.bytes,
                // The rule for files: the side that was changed.
                None if mine == base => theirs.as_bytes().to_vec(),
                None => mine.as_bytes().to_vec(),
            }
        };
        prop_assert_eq!(run(&base, &base, &theirs), theirs.as_bytes());
        prop_assert_eq!(run(&base, &mine, &base), mine.as_bytes());
        prop_assert_eq!(run(&base, &mine, &mine), mine.as_bytes());
        let once = run(&base, &mine, &theirs);
        let again = run(&theirs, std::str::from_utf8(&once).unwrap(), &theirs);
        prop_assert_eq!(&again, &once, "merging what was merged changes nothing");

        // A person's line is there, or its record is merged with theirs, or it was the default and is not now.
        let lines = |text: &str| -> Vec<String> { text.lines().map(str::to_owned).collect() };
        let merged_text = String::from_utf8(once.clone()).unwrap();
        let (old, here) = (lines(&base), lines(&merged_text));
        let merged = records(Passwd, &once);
        for line in lines(&mine) {
            let key = line.split(':').next().unwrap();
            prop_assert!(
                old.contains(&line) || here.contains(&line) || merged.contains_key(key.as_bytes()),
                "{line:?} is lost in {merged_text:?}"
            );
        }

        // Two accounts with one id: a person's own doing, or reported.
        let conflicts = merge(&[(Passwd, &base, &mine, &theirs)])
            .remove(&Passwd)
            .map(|file| file.conflicts)
            .unwrap_or_default();
        if mine != base && theirs != base && mine != theirs {
            let (found, here) = (ids(&once), ids(mine.as_bytes()));
            for (index, a) in found.iter().enumerate() {
                for b in &found[index + 1..] {
                    prop_assert!(
                        a.1 != b.1
                            || here.contains(a) && here.contains(b)
                            || conflicts.iter().any(|conflict| matches!(
                                conflict, KeyedConflict::SharedId { id, .. } if *id == a.1)),
                        "{a:?} and {b:?} in {merged_text:?}"
                    );
                }
            }
        }
    }
}
