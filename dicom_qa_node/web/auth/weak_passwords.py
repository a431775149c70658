"""Passwords that are tried first, in lower case; with digits or marks behind them they are no better.

Short: the least length keeps most of the known lists away already.
"""

from __future__ import annotations

__all__ = ["WEAK"]

_WORDS = """
password passwort passw0rd p@ssw0rd p@ssword password1234 passwordpassword adminpassword mypassword newpassword
changeme changemenow changeme123 letmein letmeinnow letmeinplease welcome welcome123 welcomewelcome
administrator adminadmin administrator1 admin123 root toor rootroot secret supersecret topsecret secretsecret
qwerty qwertyuiop qwertyuiopas qwertzuiop qwerty123 1q2w3e4r5t6y 1qaz2wsx3edc qazwsxedcrfv asdfghjkl asdfghjkl123
zxcvbnm123 iloveyou iloveyou123 trustno1 sunshine princess monkey dragon football baseball superman batman
hospital radiology radiologie imaging dicomqa dicom-qa-node qualitynode imagequality scanner tomography radiologist
technologist physicist medicalphysics pacsadmin pacspassword dicompassword hospital123 radiology123
summer winter spring autumn january february december
correcthorsebatterystaple correct horse battery staple onetwothreefour abc123abc123 abcdefghijkl abcdabcdabcd
123456789012 1234567890 12345678910 123123123123 111222333444 112233445566 123321123321 987654321098
"""
WEAK = frozenset(_WORDS.split()) | {"correct horse battery staple"}
