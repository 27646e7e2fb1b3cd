package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"
)

// Redact takes out of a text what nobody but its owner should read: values of Secrets, keys, tokens, passwords, values of environment
// variables that are not the mesh's. JSON and YAML are gone through by their structure and stay what they are; each text in them, and
// whatever is neither, by its words. It rather takes too much.
func Redact(name string, data []byte) []byte {
	switch {
	case strings.HasSuffix(name, ".json"):
		if out, err := structured(data); err == nil {
			return out
		}
	case strings.HasSuffix(name, ".yaml"):
		return documents(data)
	}
	return []byte(words(string(data)))
}

const gone = "REDACTED"

// structured goes through values of JSON, one behind the other.
func structured(data []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // numbers stay as they are written
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	for {
		var v any
		switch err := d.Decode(&v); {
		case errors.Is(err, io.EOF) && b.Len() > 0:
			return b.Bytes(), nil
		case err != nil:
			return nil, err
		}
		if err := e.Encode(walk(v, "")); err != nil {
			return nil, err
		}
	}
}

// documents goes through each document of YAML. What cannot be read may be anything.
func documents(data []byte) []byte {
	var out [][]byte
	for _, doc := range patterns().separator.Split(string(data), -1) {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		j, err := yaml.YAMLToJSON([]byte(doc))
		if err == nil {
			j, err = structured(j)
		}
		if err == nil {
			j, err = yaml.JSONToYAML(j)
		}
		if err != nil {
			j = fmt.Appendf(nil, "# %s: a document of %d bytes that is not YAML\n", gone, len(doc))
		}
		out = append(out, j)
	}
	return bytes.Join(out, []byte("---\n"))
}

// patterns are what is looked for. They are made when they are first needed: most commands never do.
var patterns = sync.OnceValue(func() *looked {
	const (
		core = `passw(?:or)?d|passphrase|passwd|pwd|pgpass|(?:db|pg|user|smtp|redis|admin)pass\b|secret|token|(?:api|private|access|signing|encryption|master|shared|account|ticket|session|hmac)[-_]?key|credential|signature`
		// A quoted value is taken whole, however it is quoted, and so is an object or a list.
		value = `\\+["'][^"'\\]*|"(?:[^"\\]|\\.)*|'(?:[^'\\]|\\.)*|\{[^{}]*\}|\[[^\[\]]*\]`
	)
	return &looked{
		separator: regexp.MustCompile(`(?m)^---.*$`),
		sensitive: regexp.MustCompile(`(?i)(` + core + `|authorization|cookie|(^|[-_.\[])auth([-_\]]|$)|(^|[-_])pass$)`),
		harmless: regexp.MustCompile(`(?i)(secret|token|credential|key)s?[-_]?(name|ref|type|id|path|file|location|audiences?|ttl|expir\w*|present|count|bytes|bucket|requests)$|^(credentialName|secretName|imagePullSecrets|automountServiceAccountToken|serviceAccountToken|forwardOriginalToken|fromHeaders|fromCookies|from_cookies|httpCookie|outputPayloadToHeader|dynamic_active_secrets|sdsConfig|sds_config|tls_certificate_sds_secret_configs|validation_context_sds_secret_config|sds_secret_config|max_?tokens|tokens_?per_?fill|signature_?algorithm)$` +
			`|\.svc\b|\||^type\.googleapis\.com/|^envoy\.`), // names of clusters, hosts, types and filters
		ours: regexp.MustCompile(`^(ISTIO_\w+|PILOT_\w+|WEIR_\w+|POD_(NAME|NAMESPACE|IP|UID)|NODE_NAME|PROXY_CONFIG|INSTANCE_IPS?|HOST_IP|GOMEMLIMIT|GOMAXPROCS|GODEBUG|TRUST_DOMAIN|CA_ADDR|CA_PROVIDER|SERVICE_ACCOUNT|JWT_POLICY|CLUSTER_ID|REVISION|EXIT_ON_ZERO_ACTIVE_CONNECTIONS|MINIMUM_DRAIN_DURATION|TERMINATION_DRAIN_DURATION_SECONDS|LOCAL_CLUSTER_SECRET_WATCHER)$`),
		flag: regexp.MustCompile(`^--?[A-Za-z][\w.-]*$`),
		jwk:  regexp.MustCompile(`^[A-Za-z0-9_-]{16,}$`),
		words: []word{
			{`-----BEGIN`, regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|$)`), "PRIVATE KEY " + gone},
			{`-----BEGIN`, regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`), "PRIVATE KEY " + gone},
			{`LS0tLS1CRUdJTi`, regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]*(UFJJVkFURSBLRVkt|BSSVZBVEUgS0VZ|QUklWQVRFIEtFW)[A-Za-z0-9+/=]*`), "PRIVATE KEY " + gone},
			{`eyJ`, regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*`), "TOKEN " + gone},
			{``, regexp.MustCompile(`\b((?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|glpat-[\w-]{10,}|xox[abeprs]-[\w-]{10,}|[sr]k_(?:live|test)_\w{10,}|AIza[\w-]{30,})`), "KEY " + gone},
			{``, regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}`), "$1 " + gone},
			{`@`, regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s"']*@`), "${1}" + gone + "@"},
			{`@`, regexp.MustCompile(`[^\s:@/"'=]*:[^\s"']*@((?:tcp|udp|unix|cloudsql)\w*\()`), gone + "@$1"},
			{`=`, regexp.MustCompile(`([?&][A-Za-z0-9_.~%\[\]-]+=)[^&\s"'\\<>)]+`), "${1}" + gone},
			{``, regexp.MustCompile(`(\\*["'](?:k|d|p|q|dp|dq|qi)\\*["']\s*:\s*\\*["'])[A-Za-z0-9_-]{16,}`), "${1}" + gone}, // of JSON Web Keys
		},
		// In each: the name, what is between, the value.
		named: []*regexp.Regexp{
			regexp.MustCompile(`(?i)([\w.-]*authorization)(\\*["']?\s*[=:]\s*)(` + value + `|(?:[a-z][\w-]*[ \t]+)?(?:\w+="[^"]*"|[^\s"',;}]+)(?:,[ \t]*\w+=(?:"[^"]*"|[^\s",]+))*)`),
			regexp.MustCompile(`(?i)((?:^|[^\w-])cookies?)(\\*["']?\s*[=:]\s*)(` + value + `|[^\r\n"}]+)`),
			regexp.MustCompile(`(?i)(--?[\w.-]*(?:` + core + `)[\w-]*)(\\*["']?(?:\s*[=,]\s*|[ \t]+))(` + value + `|[^\s"',\]]+)`), // of command lines
			regexp.MustCompile(`(?i)([\w.-]*(?:` + core + `|cookie|\bauth|[-_]auth|\bpass|[-_]pass)[\w-]*)(\\*["']?\s*[=:]\s*)(` + value + `|[^\s",;&}]+)`),
		},
	}
})

type looked struct {
	separator *regexp.Regexp // of documents
	sensitive *regexp.Regexp // names of fields, variables and headers whose values are secrets
	harmless  *regexp.Regexp // those of them that only say where a secret is, or are about it
	ours      *regexp.Regexp // environment variables that the mesh reads
	flag      *regexp.Regexp // of a command line, with its value behind it
	jwk       *regexp.Regexp // the value of a field of a JSON Web Key
	words     []word
	named     []*regexp.Regexp
}

// word is a secret as it stands in any text.
type word struct {
	needs string // what a text has that it is in; to look for this costs little
	is    *regexp.Regexp
	by    string
}

// hints are, in small letters, what a text has that names a secret.
var hints = []string{"pass", "pwd", "secret", "token", "key", "credential", "signature", "auth", "cookie"}

// isSecret reports whether the value of a field, or of what is called so, is to go.
func isSecret(name string) bool {
	return patterns().sensitive.MatchString(name) && !patterns().harmless.MatchString(name)
}

// carriers are the fields in which an object with a name (a variable, a header, a matcher, a condition) has what belongs to the name.
var carriers = []string{"value", "values", "notValues", "raw_value", "rawValue", "exact", "prefix", "suffix", "regex", "string_match", "exact_match", "prefix_match",
	"suffix_match", "contains_match", "safe_regex_match"}

// walk returns v without secrets; under is the field that it is the value of.
func walk(v any, under string) any {
	switch x := v.(type) {
	case string:
		if nested(x) { // JSON or YAML in a ConfigMap, an annotation or a variable
			return inside(x)
		}
		return words(x)
	case map[string]any:
		return fields(x, under)
	case []any:
		for i := range x {
			if i > 0 && valueOfFlag(x[i-1], x[i]) {
				x[i] = hidden(x[i])
			}
		}
		for i := range x {
			x[i] = walk(x[i], under)
		}
	}
	return v
}

func fields(x map[string]any, under string) map[string]any {
	switch x["kind"] {
	case "Secret":
		hide(x, "data", "stringData")
	case "SecretList": // whose items do not say what they are
		items, _ := x["items"].([]any)
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				hide(m, "data", "stringData")
			}
		}
	}
	named, _ := x["name"].(string)
	if named == "" {
		named, _ = x["key"].(string)
	}
	if isSecret(named) {
		hide(x, carriers...)
	} else if under == "env" && !patterns().ours.MatchString(named) {
		hide(x, "value")
	}
	if a, ok := x["annotations"].(map[string]any); ok {
		delete(a, "kubectl.kubernetes.io/last-applied-configuration") // the object once more, as a text
	}
	delete(x, "managedFields")
	out := make(map[string]any, len(x))
	for k, inner := range x {
		s, text := inner.(string)
		switch {
		case text && strings.HasPrefix(s, gone+", "): // already
		case isSecret(k) && !(holder(k) && !text), text && slices.Contains(keyFields, k) && patterns().jwk.MatchString(s):
			inner = hidden(inner)
		default:
			inner = walk(inner, k)
		}
		out[words(k)] = inner
	}
	return out
}

// keyFields are the secret ones of a JSON Web Key.
var keyFields = []string{"k", "d", "p", "q", "dp", "dq", "qi"}

// holder reports whether a field holds more than a secret when it is an object or a list: a volume says which Secret, a dump of Envoy names its parts.
func holder(field string) bool { return field == "secret" || field == "secrets" }

// valueOfFlag reports whether the second of two neighbours in a list is the secret that the first, a flag of a command line, announces.
func valueOfFlag(flag, v any) bool {
	f, _ := flag.(string)
	s, _ := v.(string)
	if !patterns().flag.MatchString(f) {
		return false
	}
	return isSecret(strings.TrimLeft(f, "-")) || (f == "-u" || f == "--user") && strings.Contains(s, ":")
}

func bytesOf(s string) string { return fmt.Sprintf("%s, %d bytes", gone, len(s)) }

func hide(x map[string]any, fields ...string) {
	for _, f := range fields {
		if v, ok := x[f]; ok {
			x[f] = hidden(v)
		}
	}
}

// hidden keeps the names of what is in v.
func hidden(v any) any {
	switch x := v.(type) {
	case string:
		if strings.HasPrefix(x, gone+", ") {
			return x // already
		}
		return bytesOf(x)
	case json.Number:
		return bytesOf(x.String())
	case map[string]any:
		for k := range x {
			x[k] = hidden(x[k])
		}
	case []any:
		for i := range x {
			x[i] = hidden(x[i])
		}
	}
	return v
}

func nested(s string) bool {
	t := strings.TrimSpace(s)
	return strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") || strings.Contains(t, ":\n") || strings.Contains(t, ": ") && strings.Contains(t, "\n")
}

// inside goes through a text that may hold a document.
func inside(s string) string {
	if out, err := structured([]byte(s)); err == nil {
		return strings.TrimSpace(string(out))
	}
	j, err := yaml.YAMLToJSON([]byte(s))
	if err != nil || !bytes.HasPrefix(j, []byte("{")) && !bytes.HasPrefix(j, []byte("[")) {
		return words(s)
	}
	if j, err = structured(j); err == nil {
		j, err = yaml.JSONToYAML(j)
	}
	if err != nil {
		return words(s)
	}
	return string(j)
}

func words(s string) string {
	for _, w := range patterns().words {
		if strings.Contains(s, w.needs) {
			s = w.is.ReplaceAllString(s, w.by)
		}
	}
	small := strings.ToLower(s)
	if !slices.ContainsFunc(hints, func(h string) bool { return strings.Contains(small, h) }) {
		return s
	}
	for _, is := range patterns().named {
		s = replaceNamed(is, s)
	}
	return s
}

// replaceNamed takes out the values behind names that are secret; quotes stay, so that a line of JSON is one afterwards.
func replaceNamed(is *regexp.Regexp, s string) string {
	found := is.FindAllStringSubmatchIndex(s, -1)
	if found == nil {
		return s
	}
	var b strings.Builder
	last := 0
	for _, m := range found {
		name, between, value := s[m[2]:m[3]], s[m[4]:m[5]], s[m[6]:m[7]]
		if name = strings.TrimLeft(name, "- \"'"); !isSecret(name) {
			continue
		}
		b.WriteString(s[last:m[6]])
		rest := strings.TrimLeft(value, `\`)
		switch {
		case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
			b.WriteString(value[:len(value)-len(rest)+1] + gone)
		case strings.HasPrefix(between, `"`): // the field of an object
			b.WriteString(`"` + gone + `"`)
		default:
			b.WriteString(gone)
		}
		last = m[7]
	}
	b.WriteString(s[last:])
	return b.String()
}
