//! The two rules of templates.

use super::*;

#[test]
fn conditions_and_names() {
    let text = "a $X // b\n#if Y\nc\n#else\n$Xu\n#endif\n";
    let of = |defines: &[(&'static str, String)]| expand(text, defines);
    assert_eq!(of(&[("X", "1".into())]).unwrap(), "a 1\n1u\n");
    assert_eq!(of(&[("X", "1".into()), ("Y", "1".into())]).unwrap(), "a 1\nc\n");
    assert!(of(&[]).is_err());
}
