// Package chars cuts UTF-8 texts between two characters, never inside of one. Of texts that are not UTF-8 it promises the
// lengths only.
package chars

import "unicode/utf8"

// Head is the first part of a text: as many whole characters as fit into n bytes. A text of at most n
// bytes is given as it is. n is not negative.
func Head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Whole is the first part of a text, which may end anywhere, without the character at its end of which bytes are missing.
func Whole(b []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		last := b[len(b)-n:]
		if !utf8.RuneStart(last[0]) {
			continue
		}
		if !utf8.FullRune(last) {
			return b[:len(b)-n]
		}
		break
	}
	return b
}
