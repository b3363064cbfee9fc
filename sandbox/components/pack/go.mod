module provision.sandbox/components/pack

go 1.26.0
