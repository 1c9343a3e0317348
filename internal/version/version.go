// Package version knows which build a program is.
package version

import (
	"runtime/debug"
	"strings"
)

// Version says which build this is, as the Go toolchain recorded it.
type Version struct {
	Version  string `json:"version"` // of the module; "devel" for a build of a checkout
	Go       string `json:"go"`
	Revision string `json:"revision,omitempty"` // of the source; "+modified" when it had changes
}

// Read reads the build information of the running binary.
func Read() Version {
	v := Version{Version: "devel"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = strings.TrimPrefix(info.GoVersion, "go")
	if m := info.Main.Version; m != "" && m != "(devel)" {
		v.Version = m
	}
	modified := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+modified"
			}
		}
	}
	if v.Revision != "" {
		v.Revision += modified
	}
	return v
}
