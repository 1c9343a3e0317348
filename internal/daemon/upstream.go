package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"l3af/internal/api"
	"l3af/internal/artifact"
	"l3af/internal/configs"
	"l3af/internal/ini"
	"l3af/internal/near"
)

// iniKey is what becomes of one key of L3AF 2's configuration file.
type iniKey struct {
	section, key string
	to           string // our key; "" means none, or one that several keys make
	kind         string // text, bool, int, time, list
	note         string // why it has no meaning here
}

const (
	noRoot  = "chains need no root program"
	inState = "packages are kept in state-dir"
)

// iniKeys are all that L3AF 2 reads. Sections and keys are case-sensitive.
var iniKeys = slices.Concat([]iniKey{
	{"l3afd", "pid-file", "pid-file", "text", ""},
	{"l3afd", "datacenter", "", "text", "nothing ever used it"},
	{"l3afd", "bpf-dir", "", "text", inState},
	{"l3afd", "bpf-log-dir", "agent-log-dir", "text", ""},
	{"l3afd", "kernel-major-version", "", "int", "the kernel is asked for each thing that is needed"},
	{"l3afd", "kernel-minor-version", "", "int", "the kernel is asked for each thing that is needed"},
	{"l3afd", "file-log-location", "log-file", "text", ""},
	{"l3afd", "file-log-max-size", "log-size", "int", ""},
	{"l3afd", "file-log-max-backups", "log-backups", "int", ""},
	{"l3afd", "file-log-max-age", "log-days", "int", ""},
	{"l3afd", "json-format-logs", "", "bool", ""},
	{"l3afd", "http-client-timeout", "package-timeout", "time", ""},
	{"l3afd", "max-ebpf-restart-count", "", "int", "agents are restarted for ever, with growing pauses"},
	{"l3afd", "max-nf-restart-count", "", "int", "agents are restarted for ever, with growing pauses"},
	{"l3afd", "bpf-chaining-enabled", "", "bool", "every hook can have several programs, and one alone costs no more for it"},
	{"l3afd", "shutdown-timeout", "", "time", "what runs in the kernel runs on when the daemon stops"},
	{"l3afd", "swagger-api-enabled", "swagger", "bool", ""},
	{"l3afd", "environment", "environment", "text", ""},
	{"l3afd", "BpfMapDefaultPath", "pin-base", "text", ""},
	{"ebpf-repo", "url", "package-repo", "text", ""},
	{"web", "metrics-addr", "metrics-listen", "text", ""},
	{"web", "ebpf-poll-interval", "agent-poll-interval", "time", ""},
	{"web", "n-metric-samples", "monitor-samples", "int", ""},
	{"ebpf-chain-debug", "addr", "", "text", ""},
	{"ebpf-chain-debug", "enabled", "", "bool", ""},
	{"l3af-configs", "restapi-addr", "listen", "text", ""},
	{"l3af-config-store", "filename", "import", "text", ""},
	{"mtls", "enabled", "", "bool", ""},
	{"mtls", "min-tls-version", "", "text", ""},
	{"mTLS", "min-tls-version", "", "text", ""}, // where L3AF looks for it
	{"mtls", "cert-dir", "", "text", ""},
	{"mtls", "cacert-filename", "", "text", ""},
	{"mtls", "server-key-filename", "", "text", ""},
	{"mtls", "server-cert-filename", "", "text", ""},
	{"mtls", "server-crt-filename", "", "text", ""}, // as L3AF documents it
	{"mtls", "cert-expiry-warning-days", "tls-expiry-warning-days", "int", ""},
	{"mtls", "san-match-rules", "", "list", ""},
	{"graceful-restart", "restart-artifacts-url", "restart-repo", "text", ""},
	{"graceful-restart", "time-to-restart", "restart-timeout", "time", ""},
	{"graceful-restart", "basepath", "restart-dir", "text", ""},
	{"graceful-restart", "version-limit", "restart-version-limit", "int", ""},
}, without(noRoot, "xdp-root", "package-name", "artifact", "ingress-map-name", "command", "version", "object-file", "entry-function-name"),
	without(noRoot, "xdp-root-program", "name", "artifact", "ingress-map-name", "command", "version", "object-file", "entry-function-name"),
	without(noRoot, "tc-root", "package-name", "artifact", "ingress-map-name", "egress-map-name", "command", "version", "ingress-object-file",
		"egress-object-file", "ingress-entry-function-name", "egress-entry-function-name"),
	without(noRoot, "tc-root-program", "name", "artifact", "ingress-map-name", "egress-map-name", "command", "version", "ingress-object-file",
		"egress-object-file", "ingress-entry-function-name", "egress-entry-function-name"))

func without(note, section string, keys ...string) []iniKey {
	var all []iniKey
	for _, k := range keys {
		all = append(all, iniKey{section, k, "", "text", note})
	}
	return all
}

// fromINI makes our keys of L3AF 2's configuration file. notes tell what is
// unknown, unused or unsafe; only what cannot be read is an error.
func fromINI(text []byte) (keys map[string]any, notes []string, err error) {
	entries, err := ini.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	// What L3AF takes where the file says nothing and our default is another.
	keys = map[string]any{"listen": "localhost:53000", "metrics-listen": "localhost:8898", "restart-repo": "file:///srv/l3afd", "restart-timeout": "7s"}
	given := make(map[string]any) // of those that no key of ours stands for alone, by section and key
	var mistakes []error
	told := make(map[string]bool)
	seen := make(map[string]int)
	note := func(format string, args ...any) {
		if n := fmt.Sprintf(format, args...); !told[n] {
			told[n] = true
			notes = append(notes, n)
		}
	}
	for _, e := range entries {
		place := "[" + e.Section + "] " + e.Key
		i := slices.IndexFunc(iniKeys, func(k iniKey) bool { return k.section == e.Section && k.key == e.Key })
		if e.Section == "DEFAULT" {
			continue // values for the others
		}
		if i < 0 {
			note("line %d: %s", e.Line, unknownKey(e))
			continue
		}
		if first, ok := seen[place]; ok {
			note("line %d: %s was given in line %d already: the last one counts", e.Line, place, first)
		}
		seen[place] = e.Line
		k := iniKeys[i]
		if k.note != "" {
			if strings.Contains(k.note, noRoot) {
				place = "[" + e.Section + "]"
			}
			note("%s has no meaning here: %s", place, k.note)
			continue
		}
		v, err := k.read(e.Value)
		switch {
		case err != nil:
			mistakes = append(mistakes, fmt.Errorf("line %d: %s: %w", e.Line, place, err))
		case k.to == "":
			given[place] = v
		case v == "":
			delete(keys, k.to)
		default:
			keys[k.to] = v
		}
	}
	if given["[l3afd] json-format-logs"] == true {
		keys["log-format"] = "json"
	}
	if given["[ebpf-chain-debug] enabled"] == true {
		keys["debug-listen"] = "localhost:8899"
		if addr, ok := given["[ebpf-chain-debug] addr"]; ok {
			keys["debug-listen"] = addr
		}
	}
	if err := iniTLS(keys, given, note); err != nil {
		mistakes = append(mistakes, err)
	}
	exposed(keys, note)
	if repo, _ := keys["package-repo"].(string); strings.HasPrefix(repo, "http://") {
		note("[ebpf-repo] url %s is not https: who is on the way there decides what runs here as root", repo)
	}
	if repo, _ := keys["restart-repo"].(string); strings.HasPrefix(repo, "http://") {
		note("[graceful-restart] restart-artifacts-url %s is not https: who is on the way there decides which l3afd runs here", repo)
	}
	return keys, notes, errors.Join(mistakes...)
}

// read reads a value as the kind that it has.
func (k iniKey) read(value string) (any, error) {
	switch k.kind {
	case "bool":
		switch strings.ToLower(value) {
		case "1", "t", "true", "y", "yes", "on":
			return true, nil
		case "0", "f", "false", "n", "no", "off", "":
			return false, nil
		}
		return nil, fmt.Errorf("%.80q is neither true nor false", value)
	case "int":
		if _, err := strconv.ParseUint(value, 10, 31); err != nil {
			return nil, fmt.Errorf("%.80q is not a number from 0", value)
		}
		return json.Number(value), nil
	case "time":
		if _, err := strconv.ParseUint(value, 10, 31); err == nil {
			value += "s" // as time-to-restart is written
		}
		if d, err := time.ParseDuration(value); err != nil || d <= 0 {
			return nil, fmt.Errorf("%.80q is not a time such as 30s", value)
		}
		return value, nil
	case "list":
		all := []any{}
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				all = append(all, part)
			}
		}
		return all, nil
	}
	return value, nil
}

// iniTLS makes our keys of section mtls.
func iniTLS(keys, given map[string]any, note func(string, ...any)) error {
	text := func(key, instead string) string {
		if s, ok := given["[mtls] "+key].(string); ok && s != "" {
			return s
		}
		return instead
	}
	if given["[mtls] enabled"] == false {
		// Whoever could connect could write; here it takes root, and it takes loopback.
		keys["loopback-write"] = "root"
		note("[mtls] enabled is false: over TCP only root's processes on this host may write (loopback-write: root), others read")
		return nil
	}
	dir := text("cert-dir", "")
	keys["tls-cert"] = filepath.Join(dir, text("server-cert-filename", text("server-crt-filename", "server.crt")))
	keys["tls-key"] = filepath.Join(dir, text("server-key-filename", "server.key"))
	keys["tls-client-ca"] = filepath.Join(dir, text("cacert-filename", "ca.pem"))
	if rules, ok := given["[mtls] san-match-rules"].([]any); ok && len(rules) > 0 {
		keys["tls-san-rules"] = rules
	} else {
		note("[mtls] san-match-rules is empty: every certificate of the CA is taken")
	}
	least, ok := given["[mtls] min-tls-version"].(string)
	if !ok {
		least, _ = given["[mTLS] min-tls-version"].(string)
	}
	switch strings.TrimPrefix(strings.ReplaceAll(least, "_", "."), "TLS.") {
	case "":
	case "1.2":
		keys["tls-min-version"] = "1.2"
	case "1.3":
		keys["tls-min-version"] = "1.3"
	default:
		return fmt.Errorf("[mtls] min-tls-version: %.80q is neither TLS_1.2 nor TLS_1.3", least)
	}
	return nil
}

// exposed tells of the addresses that other machines reach.
func exposed(keys map[string]any, note func(string, ...any)) {
	env, given := keys["environment"].(string)
	for _, a := range []struct{ key, name string }{
		{"listen", "[l3af-configs] restapi-addr"}, {"metrics-listen", "[web] metrics-addr"}, {"debug-listen", "[ebpf-chain-debug] addr"},
	} {
		addr, ok := keys[a.key].(string)
		_, tls := keys["tls-cert"]
		switch {
		case !ok || isLoopback(addr):
		case given && env != "PROD" && !tls:
			note("[l3afd] environment is %q and %s %s is not loopback: whoever reaches it reads what is served there", env, a.name, addr)
		case !tls:
			note("%s %s is not loopback, and there is no TLS: l3afd does not start so, unless [l3afd] environment is another than PROD", a.name, addr)
		case a.key != "listen":
			note("%s %s is not loopback: whoever reads what is served there needs a certificate of the CA", a.name, addr)
		}
	}
}

// isLoopback reports whether an address is one that other hosts cannot reach.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func unknownKey(e ini.Entry) string {
	var sections, keys []string
	for _, k := range iniKeys {
		if !slices.Contains(sections, k.section) {
			sections = append(sections, k.section)
		}
		if k.section == e.Section {
			keys = append(keys, k.key)
		}
	}
	what, word, words := "section ["+e.Section+"]", e.Section, sections
	if len(keys) > 0 {
		what, word, words = "key ["+e.Section+"] "+e.Key, e.Key, keys
	}
	if hint := near.Hint(word, words); strings.HasPrefix(hint, "did you") {
		return fmt.Sprintf("unknown %s is ignored (%s)", what, hint)
	}
	return fmt.Sprintf("unknown %s is ignored", what)
}

// logLevelOfUpstream takes what L3AF's variable of the environment says, unless
// the flags or the file say a level.
func (s *settings) logLevelOfUpstream(fs *flag.FlagSet, said string) {
	given := said == ""
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == "log-level" })
	if given {
		return
	}
	switch level := strings.ToLower(said); level {
	case "debug", "info", "warn", "error":
		s.logLevel = level
	case "trace":
		s.logLevel = "debug"
	case "fatal", "panic", "disabled":
		s.logLevel = "error"
	default:
		s.notes = append(s.notes, fmt.Sprintf("L3AF_LOG_LEVEL %.80q is ignored: it is none of trace, debug, info, warn and error", said))
	}
}

// upstream is this machine for L3AF's API.
func (s *settings) upstream(log *slog.Logger) configs.Host {
	h := configs.Host{Name: s.hostName, Repo: s.packageRepo, Codename: s.packageCodename, PinBase: s.pinBase, LogDir: s.agentLogDir}
	if filepath.IsAbs(h.Repo) {
		h.Repo = "file://" + h.Repo
	}
	if h.Codename == "" {
		var err error
		if h.Codename, err = artifact.Codename(); err != nil && h.Repo != "" {
			log.Warn("packages of L3AF cannot be found: name package-codename", "error", err)
		}
	}
	return h
}

// importStore makes the store of L3AF 2 the state, once.
func (s *settings) importStore(ctx context.Context, server *api.Server, log *slog.Logger) {
	if s.importing == "" {
		return
	}
	store, err := os.ReadFile(s.importing)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return // as on a new host
	case err == nil && len(bytes.TrimSpace(store)) > 0 && string(bytes.TrimSpace(store)) != "null":
		err = server.Import(ctx, store, "import of "+s.importing)
	}
	if err != nil {
		log.Error("import", "file", s.importing, "error", err)
	}
}
