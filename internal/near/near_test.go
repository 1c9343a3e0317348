package near

import "testing"

func TestHint(t *testing.T) {
	hooks := []string{"xdp", "tc-ingress", "tc-egress"}
	for _, c := range []struct {
		word  string
		words []string
		want  string
	}{
		{"xpd", hooks, `did you mean "xdp"?`},
		{"XDP", hooks, `did you mean "xdp"?`},
		{"tc-egres", hooks, `did you mean "tc-egress"?`},
		{"kprobe", hooks, "there are xdp, tc-ingress, tc-egress"},
		{"", hooks, "there are xdp, tc-ingress, tc-egress"},
		{"x", nil, ""},
		{"allow", []string{"deny"}, `there is only "deny"`},
		{"q", []string{"aa", "bb", "cc", "dd", "ee", "ff", "gg", "hh", "ii", "jj", "kk", "ll", "mm", "nn"},
			"there are aa, bb, cc, dd, ee, ff, gg, hh, ii, jj, kk, ll and 2 more"},
	} {
		if got := Hint(c.word, c.words); got != c.want {
			t.Errorf("Hint(%q) = %s, want %s", c.word, got, c.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "acb", 1}, {"kitten", "sitting", 3}, {"ab", "ab", 0}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}
