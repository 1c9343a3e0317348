package inspect

import (
	"fmt"
	"os"
	"strings"
)

// Token is what bpftool token show has of a bpffs that lets others than root use
// BPF by tokens, with its names and order: what it was mounted to allow, in the
// kernel's words, or any.
type Token struct {
	Info    string   `json:"token_info"` // where it is mounted
	Cmds    []string `json:"allowed_cmds"`
	Maps    []string `json:"allowed_maps"`
	Progs   []string `json:"allowed_progs"`
	Attachs []string `json:"allowed_attachs"`
}

// Tokens lists the bpffs of which tokens can be made, as this process sees them.
func Tokens() ([]Token, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	list := []Token{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "bpf" {
			continue
		}
		if t, ok := parseToken(f[3]); ok {
			t.Info = unescape(f[1])
			list = append(list, t)
		}
	}
	return list, nil
}

// parseToken reads the options of a mount; ok where they let anything be used.
func parseToken(options string) (t Token, ok bool) {
	t = Token{Cmds: []string{}, Maps: []string{}, Progs: []string{}, Attachs: []string{}}
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		list := map[string]*[]string{
			"delegate_cmds": &t.Cmds, "delegate_maps": &t.Maps, "delegate_progs": &t.Progs, "delegate_attachs": &t.Attachs,
		}[name]
		if list != nil && value != "" {
			*list, ok = strings.Split(value, ":"), true
		}
	}
	return t, ok
}
