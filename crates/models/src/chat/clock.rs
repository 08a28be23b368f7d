//! The date for templates: `strftime` of UTC, in English, without a system's libraries.

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Year, month from 1, day from 1 of a day counted from 1970-01-01.
///
/// Years begin in March here, so the leap day is the last of its year and the months' lengths
/// follow one formula (H. Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_month)
}

/// The first three letters.
fn short(name: &str) -> &str {
    name.get(..3).unwrap_or(name)
}

/// `time`, in seconds since 1970, in the format of Python's `strftime`.
///
/// # Errors
/// A directive that is not supported, by its letter.
pub(super) fn strftime(format: &str, time: i64) -> Result<String, String> {
    // Within four thousand years of 1970, so that no step can overflow.
    let time = time.clamp(-(1 << 37), 1 << 37);
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let new_year = (0..366).find(|d| civil(days - d).1 == 1 && civil(days - d).2 == 1);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let two = |n: i64| if bare { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('H') => two(hour),
            Some('I') => two(twelve),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('p') => (if hour < 12 { "AM" } else { "PM" }).into(),
            Some('j') if bare => (new_year.unwrap_or(0) + 1).to_string(),
            Some('j') => format!("{:03}", new_year.unwrap_or(0) + 1),
            Some('B') => month_name.into(),
            Some('b' | 'h') => short(month_name).into(),
            Some('A') => weekday.into(),
            Some('a') => short(weekday).into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".into(),
            Some('z') => "+0000".into(),
            Some('%') => "%".into(),
            Some(other) => return Err(format!("strftime_now: %{other} is not supported")),
            None => return Err("strftime_now: the format ends in %".into()),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked against Python's `datetime`.
    #[test]
    fn dates() {
        let f = "%Y-%m-%d %B %b %A %a %H:%M:%S %I %p %j %-d %y %%";
        for (time, want) in [
            (0, "1970-01-01 January Jan Thursday Thu 00:00:00 12 AM 001 1 70 %"),
            (951_782_399, "2000-02-28 February Feb Monday Mon 23:59:59 11 PM 059 28 00 %"),
            (951_782_400, "2000-02-29 February Feb Tuesday Tue 00:00:00 12 AM 060 29 00 %"),
            (1_735_646_700, "2024-12-31 December Dec Tuesday Tue 12:05:00 12 PM 366 31 24 %"),
            (-86_400, "1969-12-31 December Dec Wednesday Wed 00:00:00 12 AM 365 31 69 %"),
        ] {
            assert_eq!(strftime(f, time).unwrap(), want);
        }
        assert!(strftime("%Q", 0).is_err() && strftime("%", 0).is_err());
        assert!(strftime("%Y", i64::MAX).is_ok() && strftime("%Y", i64::MIN).is_ok());
    }
}
