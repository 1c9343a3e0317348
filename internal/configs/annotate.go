package configs

import (
	"encoding/json"
	"strings"
	"time"

	"l3af"
)

// The annotations by which programs and probes of a state are known to have
// come through L3AF's API. Those without keySent or keyOf are other people's.
const (
	prefix   = "l3af.configs/"
	keySent  = prefix + "program"      // the program as it was sent, JSON
	keyIPv4  = prefix + "ipv4_address" // its interface's
	keySince = prefix + "since"        // when it began to be what it is, RFC 3339
	keyOf    = prefix + "of"           // whom a probe belongs to, as ownerOf says
	keyIface = prefix + "iface"        // for a probe: the interface it was sent with
)

func annotate(p Program, ipv4 string) map[string]string {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of plain values
	}
	a := map[string]string{keySent: string(text)}
	if ipv4 != "" {
		a[keyIPv4] = ipv4
	}
	return a
}

// sentAs is the program as it was sent; ok is false for other people's.
func sentAs(s l3af.Settings) (p Program, ok bool) {
	text, ok := s.Annotations[keySent]
	if !ok || json.Unmarshal([]byte(text), &p) != nil {
		return Program{}, false
	}
	return p, true
}

func isOurs(s l3af.Settings) bool {
	_, ok := sentAs(s)
	return ok
}

func ownerOf(iface string, d direction, name string) string {
	return d.name + "/" + iface + "/" + name
}

// owner is the direction, interface and name of the program that a probe
// belongs to; nil for other probes.
func owner(p l3af.Probe) []string {
	if parts := strings.SplitN(p.Annotations[keyOf], "/", 3); len(parts) == 3 {
		return parts
	}
	return nil
}

// since is when a program began to be what it is; zero for other people's.
func since(s l3af.Settings) time.Time {
	t, _ := time.Parse(time.RFC3339, s.Annotations[keySince])
	return t
}
