//! C-MAPSS files: read, or refused with a reason; what was read is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match cmapss::parse::parse_fleet("fuzz.txt", bytes) {
        Ok(fleet) => {
            let mut text = Vec::new();
            cmapss::write::write_fleet(&mut text, &fleet).expect("memory takes everything");
            let again = cmapss::parse::parse_fleet("again.txt", &text);
            assert!(again.is_ok_and(|again| again == fleet), "written and read again, it is another");
        }
        Err(error) => assert!(error.to_string().len() > 10),
    }
    if let Err(error) = cmapss::parse::parse_rul("fuzz.txt", bytes) {
        assert!(error.to_string().len() > 10);
    }
});
