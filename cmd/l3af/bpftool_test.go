package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"l3af/internal/testenv"
)

// l3afJSON runs a line of ours and gives its JSON document.
func l3afJSON(t testing.TB, args ...string) any {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(args, strings.NewReader(""), &out, &errs); code != exitDone {
		t.Fatalf("l3af %s: exit code %d: %s%s", strings.Join(args, " "), code, out.String(), errs.String())
	}
	return document(t, "l3af "+strings.Join(args, " "), out.Bytes())
}

// bpftoolJSON runs a line of bpftool's and gives its JSON document.
func bpftoolJSON(t testing.TB, args ...string) any {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, "bpftool"), args...).Output()
	if err != nil {
		t.Fatalf("bpftool %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return document(t, "bpftool "+strings.Join(args, " "), out)
}

// document reads a text that must be exactly one JSON document.
func document(t testing.TB, what string, text []byte) any {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v in %q", what, err, text)
	}
	if d.More() {
		t.Fatalf("%s: more than one document: %q", what, text)
	}
	return v
}

// only keeps of a list of objects those whose key is a value.
func only(v any, key string, value any) []any {
	var kept []any
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok && reflect.DeepEqual(m[key], value) {
			kept = append(kept, e)
		}
	}
	return kept
}

// without drops keys that bpftool does not have from all objects of a list.
func without(v any, keys ...string) any {
	list, _ := v.([]any)
	for _, e := range list {
		for _, k := range keys {
			delete(e.(map[string]any), k)
		}
	}
	return v
}
