package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// conforms checks an answer against the checked-in description: the operation
// tells the status and media type, and the body has the schema.
func conforms(t *testing.T, method, path string, resp *http.Response, body []byte) {
	t.Helper()
	var spec map[string]any
	if err := json.Unmarshal(openAPI, &spec); err != nil {
		t.Fatal(err)
	}
	for template, item := range spec["paths"].(map[string]any) {
		re := regexp.MustCompile("^" + regexp.MustCompile(`\\{\w+\\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$")
		op, ok := item.(map[string]any)[strings.ToLower(method)].(map[string]any)
		if !ok || !re.MatchString(path) {
			continue
		}
		answer, ok := op["responses"].(map[string]any)[strconv.Itoa(resp.StatusCode)].(map[string]any)
		if !ok {
			t.Errorf("%s %s: the description has no status %d", method, path, resp.StatusCode)
			return
		}
		if answer["content"] == nil {
			if len(body) > 0 {
				t.Errorf("%s %s: the description of %d has no body, the answer has %q", method, path, resp.StatusCode, body)
			}
			return
		}
		mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
		content, ok := answer["content"].(map[string]any)[mediaType].(map[string]any)
		if !ok {
			t.Errorf("%s %s: the description of %d has no %q", method, path, resp.StatusCode, mediaType)
			return
		}
		if !strings.HasSuffix(mediaType, "json") {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Errorf("%s %s: %v", method, path, err)
			return
		}
		if err := fits(spec, content["schema"].(map[string]any), v, ""); err != nil {
			t.Errorf("%s %s: %v\n%s", method, path, err, body)
		}
		return
	}
	t.Errorf("%s %s: not described", method, path)
}

// fits checks a value against a schema, as far as our schemas go; properties
// that the schema does not know are refused wherever it knows some.
func fits(spec, schema map[string]any, v any, at string) error {
	if ref, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/components/schemas/")
		target, ok := spec["components"].(map[string]any)["schemas"].(map[string]any)[name].(map[string]any)
		if !ok {
			return fmt.Errorf("%s: no schema %s", at, ref)
		}
		return fits(spec, target, v, at)
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, v) {
		return fmt.Errorf("%s: %v is none of %v", at, v, enum)
	}
	want, _ := schema["type"].(string)
	switch v := v.(type) {
	case string, bool, nil, json.Number:
		got := map[string]string{"string": "string", "bool": "boolean", "<nil>": "null", "json.Number": "integer"}[fmt.Sprintf("%T", v)]
		if n, ok := v.(json.Number); ok && (want == "number" || strings.ContainsAny(n.String(), ".eE")) {
			got = "number"
		}
		if want != "" && want != got {
			return fmt.Errorf("%s: a %s, want a %s", at, got, want)
		}
	case []any:
		if want != "" && want != "array" {
			return fmt.Errorf("%s: a list, want a %s", at, want)
		}
		items, _ := schema["items"].(map[string]any)
		for i, e := range v {
			if err := fits(spec, items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case map[string]any:
		if want != "" && want != "object" {
			return fmt.Errorf("%s: a mapping, want a %s", at, want)
		}
		for _, name := range orEmpty(anyList(schema["required"])) {
			if _, ok := v[name.(string)]; !ok {
				return fmt.Errorf("%s: %s is missing", at, name)
			}
		}
		properties, known := schema["properties"].(map[string]any)
		more, _ := schema["additionalProperties"].(map[string]any)
		for k, e := range v {
			sub, ok := properties[k].(map[string]any)
			if !ok && known && more == nil {
				return fmt.Errorf("%s: %s is not described", at, k)
			}
			if !ok {
				sub = more
			}
			if err := fits(spec, sub, e, at+"."+k); err != nil {
				return err
			}
		}
	}
	return nil
}

func anyList(v any) []any {
	list, _ := v.([]any)
	return list
}

// What the checker must find, so that what it passes means something.
func TestFits(t *testing.T) {
	var spec map[string]any
	if err := json.Unmarshal(openAPI, &spec); err != nil {
		t.Fatal(err)
	}
	for in, ok := range map[string]bool{
		`{"revision":1,"changed":true,"steps":[{"verb":"attach","target":"xdp/e"}]}`: true,
		`{"revision":1,"changed":true,"steps":null}`:                                 false,
		`{"revision":1,"changed":true}`:                                              false,
		`{"revision":"1","changed":true,"steps":[]}`:                                 false,
		`{"revision":1,"changed":true,"steps":[{"verb":"attach"}]}`:                  false,
		`{"revision":1,"changed":true,"steps":[],"stepz":[]}`:                        false,
	} {
		dec := json.NewDecoder(strings.NewReader(in))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if err := fits(spec, map[string]any{"$ref": "#/components/schemas/Applied"}, v, ""); (err == nil) != ok {
			t.Errorf("%s: %v", in, err)
		}
	}
}
