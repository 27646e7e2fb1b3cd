package state

import (
	"cmp"
	"errors"
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	streamaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/proxy/observe"
)

const (
	fileAccessLogURL   = typePrefix + "envoy.extensions.access_loggers.file.v3.FileAccessLog"
	stdoutAccessLogURL = typePrefix + "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
)

// logs decodes access logs. They are written to the process's standard output, whichever of the two standard files they name.
func (b *Builder) logs(list []*accesslogv3.AccessLog, path string) ([]observe.AccessLog, error) {
	var out []observe.AccessLog
	for i, l := range list {
		at := fmt.Sprintf("%s.access_log[%d]", path, i)
		f := &fileaccesslogv3.FileAccessLog{}
		switch url := l.GetTypedConfig().GetTypeUrl(); url {
		case fileAccessLogURL:
			if err := unpack(l.GetTypedConfig(), f, at); err != nil {
				return nil, err
			}
		case stdoutAccessLogURL:
			stdout := &streamaccesslogv3.StdoutAccessLog{}
			if err := unpack(l.GetTypedConfig(), stdout, at); err != nil {
				return nil, err
			}
			f.Path = "/dev/stdout"
			if lf := stdout.GetLogFormat(); lf != nil {
				f.AccessLogFormat = &fileaccesslogv3.FileAccessLog_LogFormat{LogFormat: lf}
			}
		default:
			return nil, fmt.Errorf("%s: %s is not supported: StdoutAccessLog is, and FileAccessLog with path /dev/stdout", at, url)
		}
		if p := f.GetPath(); p != "/dev/stdout" && p != "/dev/stderr" {
			return nil, fmt.Errorf("%s.path: %q is not supported, only /dev/stdout", at, p)
		}
		a := observe.AccessLog{}
		if filter := l.GetFilter(); filter != nil {
			if err := check(filter, at+".filter"); err != nil {
				return nil, err
			}
			switch f := filter.GetFilterSpecifier().(type) {
			case *accesslogv3.AccessLogFilter_MetadataFilter:
				if !audited(f.MetadataFilter) {
					return nil, fmt.Errorf("%s.filter.metadata_filter: only access_log_hint of envoy.common, true, is supported", at)
				}
				a.Audited = true
			default:
				var unknown string
				if a.Only, unknown = causes.FlagsOf(filter.GetResponseFlagFilter().GetFlags()); unknown != "" {
					return nil, fmt.Errorf("%s.filter.response_flag_filter.flags: there is no flag %s", at, unknown)
				}
				a.Only = cmp.Or(a.Only, causes.AnyFlag)
			}
		}
		var err error
		if a.Format, err = b.format(f, l.GetTypedConfig()); err != nil {
			return nil, fmt.Errorf("%s.%w", at, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// audited reports whether a filter asks for what RBAC filters with action LOG have marked, and for nothing else.
func audited(m *accesslogv3.MetadataFilter) bool {
	path := m.GetMatcher().GetPath()
	return m.GetMatcher().GetFilter() == "envoy.common" && len(path) == 1 && path[0].GetKey() == "access_log_hint" && m.GetMatcher().GetValue().GetBoolMatch() && !m.GetMatcher().GetInvert() &&
		m.GetMatchIfKeyNotFound() != nil && !m.GetMatchIfKeyNotFound().GetValue()
}

// maxFormats bounds what format remembers: a mesh has a few formats, in thousands of listeners and in all their versions that connections
// still hold, and a compiled one takes some KB.
const maxFormats = 64

// format is fileFormat, one for all loggers of the same bytes.
func (b *Builder) format(f *fileaccesslogv3.FileAccessLog, of *anypb.Any) (*observe.Format, error) {
	key := of.GetTypeUrl() + "\n" + string(of.GetValue())
	if known := b.formats[key]; known != nil {
		return known, nil
	}
	made, err := fileFormat(f)
	if err != nil {
		return nil, err
	}
	if b.formats == nil || len(b.formats) >= maxFormats {
		b.formats = map[string]*observe.Format{}
	}
	b.formats[key] = made
	return made, nil
}

// fileFormat is the format of an access logger, in one of the ways there are to say it. Errors begin with the field.
func fileFormat(f *fileaccesslogv3.FileAccessLog) (*observe.Format, error) {
	text, json, omit, field := f.GetFormat(), f.GetJsonFormat(), false, "format" // deprecated, and still sent
	if typed := f.GetTypedJsonFormat(); typed != nil {                           // the same
		json = typed
	}
	if lf := f.GetLogFormat(); lf != nil {
		field, omit, json = "log_format", lf.GetOmitEmptyValues(), lf.GetJsonFormat()
		switch s := lf.GetFormat().(type) {
		case *corev3.SubstitutionFormatString_TextFormatSource:
			inline, ok := s.TextFormatSource.GetSpecifier().(*corev3.DataSource_InlineString)
			if !ok {
				return nil, errors.New("log_format.text_format_source: only inline_string is supported")
			}
			text = inline.InlineString
		case *corev3.SubstitutionFormatString_TextFormat:
			text = s.TextFormat
		}
	}
	var out *observe.Format
	var err error
	if json != nil {
		out, err = observe.ParseJSON(json, omit)
	} else {
		out, err = observe.ParseText(cmp.Or(text, substitution.EnvoyText), omit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return out, nil
}
